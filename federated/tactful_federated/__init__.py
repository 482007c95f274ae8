"""The on-device intent model and the rounds that train it without collecting histories."""
