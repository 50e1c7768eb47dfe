"""How good features are: test views, nearest-neighbour retrieval, fine-tuning."""
