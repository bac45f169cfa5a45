"""Show what a convnet sees (section 5.4). Begin with `trace`: it records a forward pass for `maps` and `patterns`."""

import convspec.backend  # noqa: F401  before Keras: it names a backend's missing package, and drops its noise
from convspec.visualization.maps import activations, class_activation_map, superimpose
from convspec.visualization.patterns import deprocess_image, filter_patterns

__all__ = ["activations", "class_activation_map", "deprocess_image", "filter_patterns", "superimpose"]
