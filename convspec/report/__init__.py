"""Reports of a session: tables, charts, contact sheets, claims and the HTML page. Begin reading in `html`."""
