"""What people see: a room a question, with its Python module, its JavaScript and its plotly figure."""
