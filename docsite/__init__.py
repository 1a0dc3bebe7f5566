"""What builds the documentation: pages generated from the program, pictures, and the checks of `make docs`."""
