"""One folder a model: model.py is the paper top to bottom, task.py trains it, convert.py imports its checkpoints."""
