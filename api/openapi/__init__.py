"""The OpenAPI document, made from the declarations of routes, parameters and errors."""
