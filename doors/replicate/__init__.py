"""The Replicate door: requests and answers of Replicate's API, from and into those of this service."""
