"""The collection of data sets: which there are, who forecasts them, how forecasts are scored, and the tables."""
