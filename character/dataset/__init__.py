"""What is trained on and asked: constitutions, prompts, answers, and the filters of texts."""
