"""A model as p(y|x) on pixels: classifiers and black boxes, what their logits mean, and what passes over them share."""
