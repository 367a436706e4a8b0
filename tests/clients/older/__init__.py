"""Clients that need older packages than those of ../ do: cohere 5, httpx 0.27."""
