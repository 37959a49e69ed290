"""Fisher–Rao margins: how far an input must travel, in the model's own geometry, before its class changes."""
