"""A record of each format of question-answer pairs."""

HOTPOT = {
    "question": "Who led the town where Low Tide was written?",
    "answer": "Ada Quill",
    "context": [
        ["Low Tide", ["Low Tide is a novel.", " It was written in Orvale."]],
        ["Orvale", ["Orvale was led by Ada Quill."]],
        ["Quenby", ["Quenby was led by Bo Marsh."]],
        ["High Tide", ["High Tide is a poem of Quenby."]],
    ],
    "supporting_facts": [["Low Tide", 1], ["Orvale", 0]],
}
MUSIQUE = {
    "question": HOTPOT["question"],
    "answer": "Ada Quill",
    "answer_aliases": ["A. Quill"],
    "answerable": True,
    "paragraphs": [
        {"title": title, "paragraph_text": "".join(sentences), "is_supporting": title in ("Low Tide", "Orvale")}
        for title, sentences in HOTPOT["context"]
    ],
}
LOG = {
    "question": "Who led Orvale?",
    "answer": "Ada Quill",
    "passages": ["Quenby was led by Bo Marsh.", "Orvale was led by Ada Quill.", "Ada Quill, of Orvale."],
}
