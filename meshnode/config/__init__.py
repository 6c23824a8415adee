"""YAML or argv to frozen, typed directives; nobody past this folder meets a dict."""
