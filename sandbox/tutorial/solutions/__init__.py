"""A solution for the exercise of each part. The pages show them, and tests run them."""
