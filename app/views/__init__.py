"""The pages, each a script that `app.main` lists."""
