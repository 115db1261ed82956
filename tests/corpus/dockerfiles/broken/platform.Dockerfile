FROM --platform=a/b/c/d x
