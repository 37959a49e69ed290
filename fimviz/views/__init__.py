"""What people see: one view is one Python module and one JavaScript module of the same name."""
