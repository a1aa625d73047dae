"""The pages themselves: one file for each part of what people do here, and `routes`, which has all of them."""
