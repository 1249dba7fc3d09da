"""Names and signatures of other packages, so that existing code runs after a change of import."""
