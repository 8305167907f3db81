"""Controlled experiments that measure what people say about clipping and the flow of gradients."""
