"""How good a model is afterwards. Shares the parser with the rewards, never their formulas."""
