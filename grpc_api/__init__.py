"""The service `jinkud`: mutual TLS, who may call, bytes in and bytes out."""
