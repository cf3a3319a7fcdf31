defmodule Brain.Log do
  @moduledoc "Log lines: a message and fields, to standard error through Logger."

  require Logger

  @spec info(String.t(), keyword) :: :ok
  def info(message, fields), do: Logger.info(fn -> line(message, fields) end)

  @spec warn(String.t(), keyword) :: :ok
  def warn(message, fields), do: Logger.warning(fn -> line(message, fields) end)

  @spec error(String.t(), keyword) :: :ok
  def error(message, fields), do: Logger.error(fn -> line(message, fields) end)

  defp line(message, fields) do
    [message | for({key, value} <- fields, do: [" ", to_string(key), "=", field(value)])]
  end

  # Ids come from outside: a line break in one may not make a second line.
  defp field(value) when is_binary(value), do: inspect(value)
  defp field(value), do: inspect(value, limit: 20)
end
