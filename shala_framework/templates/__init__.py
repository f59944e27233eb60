"""Files that `shala new-plugin` fills in; `string.Template` names what is filled."""
