"""What views share: hosts, payload, module loader, stage, charts, images, colours and style."""
