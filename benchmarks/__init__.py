"""Speed: against plain torch and this machine's limit (`speed`), and against other packages (`peers`)."""
