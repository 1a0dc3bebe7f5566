"""The command line: parse, call, print. Every rule and every computation is in the rooms below."""
