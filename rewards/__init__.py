"""The rewards of training: parts, judges, custom functions, and an audit of what games them."""
