"""`hepduck findings`, `tail`, `call`, `sql`: reading the store, while the tap runs or not."""
import typer
def register(app: typer.Typer) -> None:
    pass
