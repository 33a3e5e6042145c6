"""Meshes of devices, and the processes that share them."""
