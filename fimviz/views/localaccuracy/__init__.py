"""Up to what size of a change does ½ δᵀFδ tell its divergence?"""
