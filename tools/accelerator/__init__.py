"""Every measurement that people ask of an accelerator, as one program that can be resumed."""
