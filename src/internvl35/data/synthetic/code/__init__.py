"""Pictures as code: SVG and LaTeX."""
