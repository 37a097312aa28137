"""Media types of files by their content, and checks that an image is whole."""
