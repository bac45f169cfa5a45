"""What a convnet sees (section 5.4): activations and Grad-CAM in `maps`, filters in `patterns`, both over `trace`."""
