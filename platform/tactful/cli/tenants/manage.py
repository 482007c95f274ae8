"""``tactful tenants``: the shops of one installation."""

from __future__ import annotations

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.tenants.manage import add_tenant, list_tenants, remove_tenant


@click.group()
def tenants() -> None:
    """List, add and remove the shops of one installation."""


@tenants.command("list", epilog=cli.example("tactful tenants list --json"))
@cli.with_installation
@cli.json_option
def list_(settings: Settings, as_json: bool) -> None:
    """List the tenants."""
    found = list_tenants(settings)
    if not found:
        click.echo("There is no tenant yet: `tactful tenants add NAME` makes one.", err=True)
    for tenant in found:
        if as_json:
            cli.print_json(tenant)
        else:
            size = f"{tenant.bytes / 1_000_000:.1f} MB"
            click.echo(f"{tenant.name:<32} {size:>12}  {tenant.problem or tenant.folder}")


@tenants.command(epilog=cli.example("tactful tenants add books"))
@cli.with_installation
@click.argument("name")
@cli.json_option
def add(settings: Settings, name: str, as_json: bool) -> None:
    """Make the tenant NAME; start the server again to serve it."""
    folder = add_tenant(settings, name)
    if as_json:
        cli.print_json({"name": name, "folder": str(folder)})
        return
    click.echo(f"{folder} is made. Next: `tactful keys create --tenant {name} --scope admin`,")
    click.echo("then start the server again.")


@tenants.command(epilog=cli.example("tactful tenants remove books"))
@cli.with_installation
@click.argument("name")
@click.option("--confirm", help="The name once more, instead of typing it.")
@click.option(
    "--stores-removed", is_flag=True, help="Its topics, databases and Redis keys are deleted."
)
@cli.json_option
def remove(
    settings: Settings, name: str, confirm: str | None, stores_removed: bool, as_json: bool
) -> None:
    """Delete the tenant NAME with all its data, while no server runs."""
    if confirm is None:
        confirm = click.prompt(f"All data of {name} are deleted for good. Type its name", err=True)
    if confirm != name:
        raise click.UsageError(f"{confirm!r} is not {name!r}: nothing was deleted")
    remove_tenant(settings, name, stores_removed=stores_removed)
    if as_json:
        cli.print_json({"removed": name})
    else:
        click.echo(f"{name} is deleted; backups and exports elsewhere are not.")
