"""Recipes: named YAML files that say everything about a run, and the schema that they follow."""
