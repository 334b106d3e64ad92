"""From images to patch features: frozen timm backbones, positions, exact statistics.

Any timm model works by its name. Private: how weights are found (`backbone`).
"""
