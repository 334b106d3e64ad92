"""From images to patch features: frozen timm backbones, position codes, exact statistics.

Any timm model can be named; another extractor derives from `PatchExtractor`. Private: `backbone`,
which builds the timm model and finds its weights.
"""
