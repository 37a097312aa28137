"""How the service reaches hosts, and which hosts it may reach. It imports no other package."""
