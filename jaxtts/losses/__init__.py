"""Pure array functions, each named as in the paper it comes from."""
