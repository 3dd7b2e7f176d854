"""A node: it hears orders, pulls and loads what they give it, answers, and plans anew when others are lost."""
