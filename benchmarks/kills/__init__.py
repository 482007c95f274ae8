"""Kill processes under load and compare what is left with the truth."""
