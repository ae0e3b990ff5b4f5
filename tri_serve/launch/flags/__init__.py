"""Which flags each version of an engine knows: tables read from its source, and how they are made anew."""
