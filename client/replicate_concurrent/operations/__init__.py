"""All logic of the client, once for both clients: operations yield steps, and a driver performs them."""
