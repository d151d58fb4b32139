"""Image files: decoding within bounds, and checks of what a decoded image can prove."""
