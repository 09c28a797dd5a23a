"""Multiple shooting: states and exact sensitivities of the solver over windows of the data."""
