"""Pages about models, choices and the plant: self-contained HTML and Markdown from one set of templates and charts."""
