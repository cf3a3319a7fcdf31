defmodule Brain.Log do
  @moduledoc """
  Log lines: a message and fields, to standard error through Logger, in the form that the manifest's
  `log.format` names. As JSON they have the keys of the link's lines, which go to the same place.

  A process that crashed is told by its name, the kind of its error and the places in the code.
  What OTP would print instead, its state, its last message and the arguments of its functions,
  holds what tenants say of their users.
  """

  require Logger

  # More places say no more.
  @most_places 8

  @spec info(String.t(), keyword) :: :ok
  def info(message, fields), do: Logger.info(message, fields: fields)

  @spec warn(String.t(), keyword) :: :ok
  def warn(message, fields), do: Logger.warning(message, fields: fields)

  @spec error(String.t(), keyword) :: :ok
  def error(message, fields), do: Logger.error(message, fields: fields)

  @doc "Sets the form of lines. Before, and in tests, it is the one for people."
  @spec set_format(:json | :pretty) :: :ok
  def set_format(format), do: :persistent_term.put({__MODULE__, :format}, format)

  @doc "One line, for Logger."
  @spec format(Logger.level(), Logger.message(), tuple, keyword) :: IO.chardata()
  def format(level, message, {date, time}, metadata) do
    at = [Logger.Formatter.format_date(date), "T", Logger.Formatter.format_time(time), "Z"]
    fields = Keyword.get(metadata, :fields, [])

    case :persistent_term.get({__MODULE__, :format}, :pretty) do
      :json -> json(at, level, message, fields)
      :pretty -> pretty(at, level, message, fields)
    end
  end

  defp pretty(at, level, message, fields) do
    fields =
      for {key, value} <- fields, do: [" ", to_string(key), "=", value |> field() |> shown()]

    [at, " level=", to_string(level), " ", text(message), fields, "\n"]
  end

  defp json(at, level, message, fields) do
    fields = for {key, value} <- fields, do: [",", quoted(key), ":", value |> field() |> value()]
    level = if level in [:warn, :warning], do: "WARN", else: String.upcase("#{level}")

    [
      ~s({"timestamp":"),
      at,
      ~s(","level":"),
      level,
      ~s(","message":),
      quoted(message),
      fields,
      ~s(,"target":"brain"}\n)
    ]
  end

  # Numbers, flags and texts stay what they are; ids come from outside, and may be anything.
  defp field(value) when is_integer(value) or is_boolean(value), do: value
  defp field(value) when is_binary(value), do: text(value)
  defp field(value), do: inspect(value, limit: 20)

  # A line break in one may not make a second line.
  defp shown(value) when is_binary(value), do: inspect(value)
  defp shown(value), do: to_string(value)

  defp value(value) when is_binary(value), do: quoted(value)
  defp value(value), do: to_string(value)

  defp text(chardata) do
    case chardata |> List.wrap() |> :unicode.characters_to_binary() do
      text when is_binary(text) -> text
      _ -> inspect(chardata, limit: 20)
    end
  end

  defp quoted(key) when is_atom(key), do: quoted(Atom.to_string(key))
  defp quoted(chardata), do: [?", for(<<c::utf8 <- text(chardata)>>, do: escaped(c)), ?"]

  defp escaped(?"), do: ~S(\")
  defp escaped(?\\), do: ~S(\\)
  defp escaped(?\n), do: ~S(\n)
  defp escaped(c) when c < 0x20, do: ["\\u", String.pad_leading(Integer.to_string(c, 16), 4, "0")]
  defp escaped(c), do: <<c::utf8>>

  ## Crashes

  @doc "A translator for Logger: what OTP says of a process that crashed, without what it held."
  @spec translate(Logger.level(), Logger.level(), :report | :format, term) ::
          {:ok, IO.chardata(), keyword} | :none
  def translate(_, :error, :report, {:logger, %{label: {_, :terminate}} = report}),
    do: crashed(report[:name], report[:reason])

  def translate(_, :error, :report, {{Task.Supervisor, :terminating}, report}),
    do: crashed(report[:name], report[:reason])

  def translate(_, :error, :format, {~c"Error in process " ++ _, [pid | rest]}),
    do: crashed(pid, List.last(rest))

  def translate(_, _, _, _), do: :none

  defp crashed(name, reason) do
    {kind, stack} = cause(reason)
    places = stack |> Enum.take(@most_places) |> Enum.map_join(" < ", &place/1)
    {:ok, "A process crashed", fields: [name: name, cause: kind, at: places]}
  end

  defp cause({reason, [{_, _, _, _} | _] = stack}), do: {kind(reason), stack}
  defp cause(reason), do: {kind(reason), []}

  # Who called somebody that crashed; then why that one did.
  defp kind({reason, {module, function, arguments}})
       when is_atom(module) and is_atom(function) and is_list(arguments) do
    {inner, stack} = cause(reason)
    where = for entry <- Enum.take(stack, 1), do: " at " <> place(entry)
    "#{inspect(module)}.#{function}/#{length(arguments)}: #{inner}#{where}"
  end

  defp kind(%{__exception__: true, __struct__: module}), do: inspect(module)
  defp kind(reason) when is_atom(reason), do: inspect(reason)

  defp kind(reason) when is_tuple(reason) and tuple_size(reason) > 0 and is_atom(elem(reason, 0)),
    do: inspect(elem(reason, 0))

  defp kind(_), do: "unknown"

  # A function that no clause of fits is told with its arguments.
  defp place({module, function, arguments, location}) do
    arity = if is_list(arguments), do: length(arguments), else: arguments
    Exception.format_stacktrace_entry({module, function, arity, location})
  end

  defp place(_), do: "?"
end
