"""Reports of a session: tables, charts, rows of pictures, claims and the HTML page. Begin reading in `html`."""
