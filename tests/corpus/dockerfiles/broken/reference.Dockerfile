FROM Not:A:Reference
