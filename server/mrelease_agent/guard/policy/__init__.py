"""The access policy: who may have what done to whom. Only rules that allow, in any order; what none allows is denied."""
