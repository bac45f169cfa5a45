"""What a session leaves: tables, charts, contact sheets, claims and the HTML page. Begin reading in `html`."""
